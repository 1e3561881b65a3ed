"""The pipeline that turns notebooks into the book.

notebook.md -> key -> executed run (execute) -> page (render) -> site. Drive it with
`compactnets.book.pipeline.run` and `compactnets.book.pipeline.build`.
"""
