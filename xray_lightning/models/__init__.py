"""Backbone and head."""
