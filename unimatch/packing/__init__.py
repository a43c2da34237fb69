"""From the files that people have to a shard set, and what is to be seen in one."""
