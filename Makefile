# Two commands do everything on a fresh machine, set-up included: `make demo` and `make test`. `make demo-oct` does so for OCT.
# An active virtual environment is used; without one, .venv is made. PIP_ARGS reaches every pip install,
# e.g. PIP_ARGS="--index-url <your CPU-only wheel index>".
#
# Both install the versions of constraints.txt, with which everything was last green. With `CONSTRAINTS=` they take the
# newest of all instead, in an environment of its own, .venv-newest, brought up to date once a day.

PYTHON ?= python3
PIP_ARGS ?=
CONSTRAINTS ?= constraints.txt
VENV := $(if $(CONSTRAINTS),$(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv),.venv-newest)
BIN := $(VENV)/bin
CHOICE := $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS),--upgrade --upgrade-strategy eager)
INSTALL := $(BIN)/python -m pip install $(PIP_ARGS) $(CHOICE)
OUTPUT ?= outputs/demo
MODEL ?= hub_cards/resformer-lite-isic2017
SITE ?= outputs/site
TESTS ?= tests
WORKERS ?= 2

.PHONY: help demo demo-oct repository page test test-long test-slow test-isic-scorer test-clients update-constraints quality style docs clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp per checkout, set of extras and choice of versions: a second run installs nothing until setup.py or
# constraints.txt changes, or, without constraints, until tomorrow.
WHEN := $(if $(CONSTRAINTS),$(CONSTRAINTS),newest $(shell date +%Y-%m-%d))
KEY := $(shell printf '%s' "$(CURDIR) $(WHEN)" | cksum | cut -d' ' -f1)
DEMO_STAMP := $(VENV)/.resformer-vision,data,train,predict-$(KEY)
DEMO_OCT_STAMP := $(VENV)/.resformer-vision,data,train,predict,imagenet-$(KEY)
DEV_EXTRAS ?= dev
DEV_STAMP := $(VENV)/.resformer-$(DEV_EXTRAS)-$(KEY)
CLIENTS_STAMP := $(VENV)/.resformer-dev,space,notebook-$(KEY)

$(VENV)/.resformer-%-$(KEY): setup.py $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) -e ".[$*]"
	@touch $@

## make demo       prepare real photographs, train, evaluate, save, reload, predict and draw (about 4 minutes)
demo: $(DEMO_STAMP)
	$(BIN)/python examples/demo.py --output $(OUTPUT)

## make demo-oct   the OCT half on a phantom of RETOUCH, mm3 against the truth: a rehearsal, no result
demo-oct: OUTPUT = outputs/demo_oct
demo-oct: $(DEMO_OCT_STAMP)
	$(BIN)/python examples/demo_oct.py --output $(OUTPUT)

## make repository OUTPUT=folder  write the small model's Hub repository to folder/NAME, with its code and card, and try it
repository: OUTPUT = outputs/repository
repository: $(DEV_STAMP)
	$(BIN)/python scripts/push_to_hub.py hub_cards/resformer-lite-isic2017 --repo-id org/resformer-lite-isic2017 \
		--dataset-id org/isic2017 --space-id org/try-resformer --dry-run --overwrite \
		--output $(OUTPUT)/resformer-lite-isic2017

## make page MODEL=folder OUTPUT=folder  write the page that runs a model in the reader's own browser (npm fetches its runtime)
page: OUTPUT = outputs/page
page: $(DEV_STAMP)
	$(BIN)/python scripts/make_page.py --model $(MODEL) --output $(OUTPUT) --overwrite

## make test       run the fast tests, with the versions of constraints.txt; CONSTRAINTS= takes the newest of all
test: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS) -n $(WORKERS)

## make test-long  run the tests of whole commands, small trainings and exports, five minutes or so, which CI runs too
test-long: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS) -n $(WORKERS) -m "long and not slow"

# ISIC's own scorer needs pandas below 3, so it gets an environment of its own. Building it takes a C compiler.
ISIC_ENV := $(abspath $(VENV))/isic-scorer
export ISIC_SCORER ?= $(ISIC_ENV)/bin/python
$(ISIC_ENV)/.installed: | $(BIN)/python
	$(BIN)/python -m venv $(ISIC_ENV)
	$(ISIC_ENV)/bin/python -m pip install $(PIP_ARGS) "isic-challenge-scoring>=5.6" "pandas<3"
	@touch $@

## make test-slow  run the slow tests as well
test-slow: $(DEV_STAMP) $(ISIC_ENV)/.installed
	$(BIN)/python -m pytest $(TESTS) -m ""

## make test-isic-scorer  compare the metrics with the ISIC challenge's own scorer
test-isic-scorer: $(DEV_STAMP) $(ISIC_ENV)/.installed
	$(BIN)/python -m pytest tests/test_isic_scorer.py -m slow

## make test-clients  npm's client and widget, the Space and the page in Chromium, and the notebook (Debian: apt-get install chromium nodejs npm)
test-clients: $(CLIENTS_STAMP)
	cd tests/clients && npm ci --no-audit --no-fund
	$(BIN)/python -m pytest tests/test_clients.py tests/test_notebook.py -m slow

## make update-constraints  run the tests with the newest of everything and, once they pass, pin it in constraints.txt
update-constraints:
	$(MAKE) test CONSTRAINTS= DEV_EXTRAS=dev,space,notebook,export,trackio
	.venv-newest/bin/python scripts/update_constraints.py --output constraints.txt

## make quality    check lint and formatting
quality: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

## make style      mend lint and formatting
style: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## make docs       build the site of README, docs and docstrings into outputs/site; a warning is an error
docs: $(DEV_STAMP)
	$(BIN)/python -m sphinx -W --keep-going -b html -c docs . $(SITE)
	@printf '<meta http-equiv="refresh" content="0; url=docs/index.html">\n' > $(SITE)/index.html
	@echo "open $(SITE)/index.html"

## make clean      remove what the commands above wrote inside the checkout
clean:
	rm -rf outputs build dist *.egg-info .pytest_cache .ruff_cache
