"""Tables, migrations and one repository per domain."""
