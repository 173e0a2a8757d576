"""The commands that run drives without Airflow, and that look after any run: each a module of its own."""
