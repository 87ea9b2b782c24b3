"""Bubble Escape Potential: does a recommender let a user out when the user tries?"""
