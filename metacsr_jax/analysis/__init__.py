"""What the paper looks at inside metaCSR: preferences, similarities, losses and parameters under adaptation."""
