"""How good is a codec? `omnisky codec report`: figures, speed and a page of pictures."""
