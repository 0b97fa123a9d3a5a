"""Sphinx configuration. Builds without a network; warnings are errors (make docs)."""

project = "omnisky"
author = copyright = "The omnisky developers"
html_title = "omnisky"
html_theme = "furo"
root_doc = "index"
exclude_patterns = ["_build", "_templates", "jupyter_execute"]
templates_path = ["_templates"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Tutorials are text and run at build time, on the data set that ships with the package.
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

autosummary_generate = True
autodoc_typehints = "none"
# scikit-learn adds these to every estimator, with references that only its own pages resolve.
autodoc_default_options = {
    "exclude-members": "get_metadata_routing, set_fit_request, set_predict_request, "
    "set_predict_proba_request, set_score_request, set_transform_request"
}
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
default_role = "code"
