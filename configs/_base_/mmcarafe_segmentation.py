custom_imports = dict(imports=["mmcarafe.segmentation"], allow_failed_imports=False)
