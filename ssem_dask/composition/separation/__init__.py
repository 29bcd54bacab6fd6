"""Separation of distortion from natural motion, by their statistics along z."""
