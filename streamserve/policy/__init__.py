"""Learned policies at serving time: no training library, and the one codec that training and serving share."""
