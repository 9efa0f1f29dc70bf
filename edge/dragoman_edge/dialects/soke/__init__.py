"""The dialect of Soke: chats with keys and in stored conversations, and the envelope that all else is put into."""
