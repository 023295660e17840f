"""What a model answers in a chat: content, reasoning and calls of tools, as they stream."""
