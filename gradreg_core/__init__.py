"""The backend-neutral part of gradreg: specification, projections, draws and the engine."""
