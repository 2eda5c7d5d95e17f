"""Maps of many images against boxes: figures with intervals, beside what needs no network."""
