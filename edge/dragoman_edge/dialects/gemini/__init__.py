"""The dialect of Google's Gemini API: `generateContent` and `streamGenerateContent`."""
