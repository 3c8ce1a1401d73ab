"""The tables and figures of Varga, Csiszárik and Zombori 2017, reproduced with gradreg: ``gradreg reproduce``."""
