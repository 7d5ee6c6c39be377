"""What the documentation's figures come from; threads wait as they do under `spec-opt`."""

from spec_opt.config.machine import set_up_threads

set_up_threads()
