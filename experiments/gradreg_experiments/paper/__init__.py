"""The tables and figures of Varga, Csiszárik and Zombori 2017, trained again with gradreg: ``gradreg reproduce``."""
