"""Which answers are looked at, and what is believed of those that are not."""
