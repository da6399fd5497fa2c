/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_ACPI_MAP_H
#define BOARD_ACPI_MAP_H
/* The firmware boards' way to the tables: through the linear map; what was read is kept from the
 * page allocator. Before that is there. */
#include "board/acpi.h"

extern const struct acpi_reader acpi_physical;
#endif
