"""Study files: parsed once at the edge, trusted afterwards."""
