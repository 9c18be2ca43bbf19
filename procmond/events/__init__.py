"""Where process events come from. One rule: whatever is not delivered is counted, by kind and by reason."""
