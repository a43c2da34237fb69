"""A shard set in a folder or behind a URL: what shards/FORMAT.md says, and who may read it."""
