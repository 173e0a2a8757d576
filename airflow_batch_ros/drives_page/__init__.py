"""The page "Drives": runs, their drives and shards, in Airflow and as files beside the reports."""
