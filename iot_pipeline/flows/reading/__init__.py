"""Files as people have them -> Parquet parts: archives, encodings, headers, names, CSV, Parquet, Zeek logs, types."""
