"""Clean references: ambient RNA, library size and batch effects modelled explicitly, for RNA and RNA with ATAC."""
