PYTHON ?= python3

.PHONY: check demo test

demo:
	$(PYTHON) tests/bootstrap.py demo

check:
	$(PYTHON) tests/bootstrap.py check

test:
	$(PYTHON) tests/bootstrap.py test
