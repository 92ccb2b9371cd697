"""What the student is measured against

Nothing is imported here, so that importing one module of the package costs no more than that module.
"""
