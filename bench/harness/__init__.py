"""What figures need: our processes, servers, load generators, a quick Meld, consumers, floors to compare with."""
