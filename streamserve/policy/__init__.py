"""Learned policies at serving time: numpy only, and the one codec that training and serving share."""
