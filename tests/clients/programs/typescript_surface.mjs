// The public surface of the TypeScript SDK as its declarations have it: one JSON object of classes and functions.
//
// A class has its public members. A method has the names that it takes, in place or as options, and whether it waits.

import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "../../../clients/typescript/node_modules/typescript/lib/typescript.js";

const path = fileURLToPath(new URL("../../../clients/typescript/dist/index.d.ts", import.meta.url));
const lib = ["lib.es2022.d.ts", "lib.esnext.disposable.d.ts", "lib.dom.d.ts", "lib.dom.asynciterable.d.ts"];
const options = { lib, target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.NodeNext, strict: true, types: [] };
const program = ts.createProgram([path], options);
const checker = program.getTypeChecker();

const HIDDEN = ts.ModifierFlags.Private | ts.ModifierFlags.Protected;

const isPublic = (symbol) => {
  const { valueDeclaration: declared } = symbol;
  if (declared === undefined || symbol.name.startsWith("__@")) return false;
  // What a class has from one of the platform's is none of the SDK's.
  const isOwn = declared.getSourceFile().fileName.startsWith(dirname(path));
  return isOwn && !(ts.getCombinedModifierFlags(declared) & HIDDEN);
};

/** The names of a parameter. The last one may be an object of options, which its declaration takes apart or says. */
function namesOf(parameter) {
  const { valueDeclaration: declared } = parameter;
  const isOptions = ts.isObjectBindingPattern(declared.name) || ["options", "call"].includes(parameter.name);
  if (!isOptions) return { taken: [parameter.name], options: [] };
  const type = checker.getNonNullableType(checker.getTypeOfSymbol(parameter));
  return { taken: [], options: type.getProperties().map((property) => property.name) };
}

function methodOf(signature) {
  const names = signature.getParameters().map(namesOf);
  const gives = checker.typeToString(signature.getReturnType());
  return {
    takes: names.flatMap(({ taken, options }) => [...taken, ...options]),
    waits: /^(Promise|AsyncGenerator)</.test(gives),
    signal: names.some(({ options }) => options.includes("signal")),
  };
}

function classOf(symbol) {
  const type = checker.getDeclaredTypeOfSymbol(symbol);
  const members = type.getProperties().filter(isPublic).map((member) => {
    const [signature] = checker.getTypeOfSymbol(member).getCallSignatures();
    const isMethod = Boolean(member.flags & ts.SymbolFlags.Method);
    return [member.name, isMethod ? methodOf(signature) : null];
  });
  return Object.fromEntries(members);
}

const classes = {};
const functions = {};
for (const exported of checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(path)))) {
  const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
  if (symbol.flags & ts.SymbolFlags.Class) classes[exported.name] = classOf(symbol);
  if (!(symbol.flags & ts.SymbolFlags.Function)) continue;
  const [signature] = checker.getTypeOfSymbol(symbol).getCallSignatures();
  functions[exported.name] = methodOf(signature);
}
console.log(JSON.stringify({ classes, functions }));
