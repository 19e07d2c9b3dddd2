"""What figures use: servers, processes, load generators, a quick Meld, consumers, baseline servers."""
