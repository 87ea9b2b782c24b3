"""Will this user respond to this ad? Impressions and a behaviour log in, calibrated probabilities out."""
