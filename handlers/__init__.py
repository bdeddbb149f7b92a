"""What answers requests inside any engine; this package lies in every archive.

Its modules import each other relatively: in an archive the package has another name
(`marina.packaging.archive`).
"""
