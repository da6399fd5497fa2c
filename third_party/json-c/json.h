// SPDX-License-Identifier: BSD-2-Clause
/* The one header of json-c that its build would generate; include it as <json-c/json.h>. */
#ifndef STRONGROOM_JSON_C_JSON_H
#define STRONGROOM_JSON_C_JSON_H

#include "arraylist.h"
#include "json_c_version.h"
#include "json_object.h"
#include "json_object_iterator.h"
#include "json_tokener.h"
#include "json_util.h"
#include "linkhash.h"

#endif
