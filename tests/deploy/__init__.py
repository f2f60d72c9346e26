"""What deploy/ holds is parsed, rendered, checked against schemas and carried out."""
