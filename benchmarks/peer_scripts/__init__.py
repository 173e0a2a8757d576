"""Other ways to turn a bag into Parquet, each a program: BAG OUTPUT. All but one run in the peers' environment."""
