"""What both sides of the wire share: the contract, its bounds and its errors. Imports neither side."""
