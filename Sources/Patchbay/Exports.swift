// Keys, errors, deadlines and descriptions are part of this library's interface.

@_exported import PatchbayTypes
