# SPDX-License-Identifier: BSD-2-Clause
SRC_ALL     += board/main.c board/acpi.c kernel/pci.c kernel/mmio.c
SRC_FW      += board/firmware.c board/fw_cfg.c board/entropy.c board/ecam.c board/acpi_map.c
SRC_HOST    += board/fdt.c kernel/pci_none.c
SRC_aarch64 += board/fdt.c
