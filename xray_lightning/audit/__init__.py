"""What a split does to a score, from the label table: leakage, shift, scores without images."""
