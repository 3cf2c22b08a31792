"""What must still reach Dub: written down before it is first sent, sent until Dub has it or refuses it."""
