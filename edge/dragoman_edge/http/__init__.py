"""An HTTP/1.1 server for many small requests and for long streams. It knows neither routes nor dialects."""
