// Compiles the asserts of the header: without a translation unit that includes it, an incremental
// build would miss a broken one.
#include "patchbay_layout.h"
