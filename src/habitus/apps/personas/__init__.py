"""Personas: which action does this kind of user take on this thread? One calibrated answer over 12 actions."""
