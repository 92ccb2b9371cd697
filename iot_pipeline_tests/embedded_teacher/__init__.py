"""Tests of embedded_teacher."""
