# Writes OUTPUT, a header with the JSON text of every file in PROFILES (a comma list).
set(text "// Made by embed_profiles.cmake from engine/prune/profiles.\n#pragma once\nnamespace slim {\ninline constexpr const char* kBuiltInProfiles[] = {\n")
string(REPLACE "," ";" PROFILES "${PROFILES}")
foreach(file ${PROFILES})
  file(READ ${file} json)
  string(APPEND text "R\"json(${json})json\",\n")
endforeach()
string(APPEND text "};\n}  // namespace slim\n")
file(WRITE ${OUTPUT} "${text}")
