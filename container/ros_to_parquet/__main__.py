"""``python -m ros_to_parquet``: the program ``ros-to-parquet``."""

from ros_to_parquet.entry import main

if __name__ == "__main__":
    main()
