"""Tables, pictures and pages made of records."""
