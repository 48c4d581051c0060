"""Running a model, whole or in part, and leaving it as found."""
