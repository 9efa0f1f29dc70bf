"""The dialect of Soke."""
