"""The use of resources over time: sampled, kept at falling resolution, told. The present is `sandboxes`'."""
