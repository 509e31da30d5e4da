"""What Bay remembers: tables, migrations and one module of queries for each noun."""
